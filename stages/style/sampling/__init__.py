"""Style sets: candidates drawn, filtered and chosen."""
