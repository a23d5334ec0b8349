"""A run at a URI (s3://, gs://, file://): worked on in a folder of this machine, kept complete there."""
