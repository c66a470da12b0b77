"""The gallery: one self-contained page to look at a set, beside another where there is one."""
