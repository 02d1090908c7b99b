package main

import (
	"hash/maphash"
	"sync"
)

// counts is how often each recipient was accepted, in shards so that requests do not wait for each other.
type counts struct {
	seed   maphash.Seed
	shards [64]struct {
		sync.Mutex
		of map[string]uint32
	}
}

func newCounts() *counts {
	c := &counts{seed: maphash.MakeSeed()}
	c.clear()
	return c
}

func (c *counts) clear() {
	for i := range c.shards {
		c.shards[i].Lock()
		c.shards[i].of = map[string]uint32{}
		c.shards[i].Unlock()
	}
}

func (c *counts) add(name string) {
	shard := &c.shards[maphash.String(c.seed, name)%64]
	shard.Lock()
	shard.of[name]++
	shard.Unlock()
}

func (c *counts) of(name string) uint32 {
	shard := &c.shards[maphash.String(c.seed, name)%64]
	shard.Lock()
	defer shard.Unlock()
	return shard.of[name]
}

func (c *counts) each(visit func(name string, count uint32)) {
	for i := range c.shards {
		shard := &c.shards[i]
		shard.Lock()
		for name, count := range shard.of {
			visit(name, count)
		}
		shard.Unlock()
	}
}

func (c *counts) summary() (distinct int64, most uint32) {
	c.each(func(_ string, count uint32) {
		distinct++
		if count > most {
			most = count
		}
	})
	return distinct, most
}
