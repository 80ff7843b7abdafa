"""Cache-aside: values loaded from one place, kept in Redis, and never kept past a change."""
