"""The only code that speaks SQL: the spool files that workers append to, and the DuckDB file filled from them."""
