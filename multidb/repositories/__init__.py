"""One file an entity, named after it; what they share is in `repository`, `postgres` and `mongo`."""
