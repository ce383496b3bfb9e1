"""A teacher elsewhere: the wire, the service and its client."""
