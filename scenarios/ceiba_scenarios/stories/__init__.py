"""The stories that come with Ceiba, one a file, each with `def run(lab)`; `ceiba-lab list` lists them."""
