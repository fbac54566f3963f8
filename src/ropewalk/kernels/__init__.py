"""Fast ways to do two things, rotation and attention with a bias of distance, and the plain ways that define them."""

PAIRINGS = ("half", "interleaved")
