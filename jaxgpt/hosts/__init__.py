"""The processes of one run, on one machine or on many: joined, agreed, watched."""
