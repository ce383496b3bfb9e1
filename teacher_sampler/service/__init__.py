"""A teacher behind HTTP: what both sides share, and the service; the client is `loaders.http_client`."""
