"""What makes the lab teach: forecasts before measurements, exercises with reasons, the origin's story."""
