-- Wakes those who listen.
ring()
return 1
