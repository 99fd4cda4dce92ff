"""Shippable artefacts of one member of a front, each checked against the model it was made of."""
