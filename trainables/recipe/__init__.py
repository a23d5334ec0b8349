"""What a trial is made of, as frozen pydantic models."""
