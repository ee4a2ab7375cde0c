"""Wrong measurements beside right ones, each with the size of its error."""
