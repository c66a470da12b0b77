"""Bulk jobs: idempotent shards of one plan, from a thousand galaxies to a survey, killed and started again at will."""
