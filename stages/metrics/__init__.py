"""Measures: one definition each, as pure functions on tensors (design: "Measures").

Pictures are float RGB in [0, 1], NCHW; masks are head coverage in [0, 1], N1HW.
"""
