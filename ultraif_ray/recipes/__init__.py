"""Recipes that ship with the package: `ultraif run NAME` finds them from any directory."""
