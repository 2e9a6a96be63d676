"""Methods side by side: one protocol, jobs that go on where they stopped, one table."""
