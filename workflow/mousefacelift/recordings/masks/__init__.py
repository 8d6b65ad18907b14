"""Masks that were made elsewhere, in any form that labs have them in."""
