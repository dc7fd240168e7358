"""From paths, globs and addresses to an index, and from a row of it to the values of a record."""
