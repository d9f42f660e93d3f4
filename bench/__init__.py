"""Figures of an installed looop, each measured by a program of its own."""
