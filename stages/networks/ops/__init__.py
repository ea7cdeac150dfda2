"""Operations below the networks: faster or leaner forms of what torch has, each held to torch by a test."""
