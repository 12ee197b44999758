-- Wakes the listening threads.
notify()
return 1
