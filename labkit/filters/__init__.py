"""The guided filter and an edge detector, each in several versions that differ in speed alone."""
