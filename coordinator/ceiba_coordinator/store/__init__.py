"""The coordinator's state in a database: SQLite by default, another by URL."""
