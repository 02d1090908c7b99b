module tocsin.invalid/bench/aws

go 1.19
