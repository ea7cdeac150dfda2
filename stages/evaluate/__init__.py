"""Measures of students on photographs of people."""
