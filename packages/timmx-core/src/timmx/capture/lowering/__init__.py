"""Operations of a captured program in other words, for formats that lack them; a backend takes what it needs."""
