"""Other people's software that the tests talk to, and how it is started."""
