"""Compares methods: one protocol, resumable jobs, one table."""
