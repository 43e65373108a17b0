"""What answers the services: the API server, what the watches have seen, and the servers of backends."""
