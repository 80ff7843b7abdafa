"""What is done to the stores rather than with them: migrations, schemas, sample data."""
