"""Hair grown by program, strand by strand: of the head and of the face."""
