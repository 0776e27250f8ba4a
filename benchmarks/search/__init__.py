"""The bake-off: whole spaces measured once, and every searcher replayed over them."""
