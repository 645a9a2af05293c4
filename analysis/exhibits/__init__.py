"""One file an exhibit: its first line says what it shows, NEEDS what it is made from, make(inputs) makes it."""
