-- Wakes those who listen.
notify()
return 1
