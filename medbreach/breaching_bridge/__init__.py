"""breaching's dicts <-> our values; breaching's attackers as attacks, its networks as models.

Nothing outside this package imports breaching or knows its dicts. breaching is used as it is
installed; where it is wrong or 2D RGB only, the subclasses here override it.
"""
