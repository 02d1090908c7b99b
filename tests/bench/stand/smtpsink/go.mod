module tocsin.invalid/bench/smtpsink

go 1.19
