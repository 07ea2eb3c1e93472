"""Bookkeeping of a comparison: studies, their journal, whose trial is next."""
