"""The guided filter and an edge filter, each in versions that differ only in speed."""
