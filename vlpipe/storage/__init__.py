"""vlpipe's own format on disk: schema, index, statistics, and the writer."""
