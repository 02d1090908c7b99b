package main

import (
	"crypto/md5"
	"encoding/hex"
	"strconv"
	"sync"
)

type lent struct{ handle, body, md5 string }

// queue lends messages out until they are removed, in order. What is lent does not come again: nobody dies in a benchmark.
type queue struct {
	sync.Mutex
	waiting []lent
	out     map[string]bool
	made    int
}

func (q *queue) put(bodies []string) {
	q.Lock()
	defer q.Unlock()
	for _, body := range bodies {
		q.made++
		sum := md5.Sum([]byte(body))
		q.waiting = append(q.waiting, lent{"h-" + strconv.Itoa(q.made), body, hex.EncodeToString(sum[:])})
	}
}

func (q *queue) take(limit int) []lent {
	q.Lock()
	defer q.Unlock()
	if limit > len(q.waiting) {
		limit = len(q.waiting)
	}
	taken := q.waiting[:limit]
	q.waiting = q.waiting[limit:]
	if q.out == nil {
		q.out = map[string]bool{}
	}
	for _, each := range taken {
		q.out[each.handle] = true
	}
	return taken
}

func (q *queue) remove(handle string) {
	q.Lock()
	defer q.Unlock()
	delete(q.out, handle)
}

// length is how many are not settled, lent ones included.
func (q *queue) length() int {
	q.Lock()
	defer q.Unlock()
	return len(q.waiting) + len(q.out)
}

func (q *queue) clear() {
	q.Lock()
	defer q.Unlock()
	q.waiting, q.out = nil, nil
}
