// Command smtpsink takes mail on loopback, counts it and drops it: an SMTP server that is never the bottleneck.
//
// It prints the SMTP and the HTTP address on one line. GET /stats on the latter gives totals with the instants (Unix
// nanoseconds) of the first and the last message, POST /reset forgets all.
package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"
)

var (
	messages, bytesIn, connections, live, first, last, refused atomic.Int64
)

// take serves one SMTP session; replies to pipelined commands leave together.
func take(connection net.Conn, maxSize int64) {
	defer live.Add(-1)
	defer connection.Close()
	in, out := bufio.NewReaderSize(connection, 16<<10), bufio.NewWriterSize(connection, 4<<10)
	say := func(reply string) bool {
		out.WriteString(reply)
		return in.Buffered() > 0 || out.Flush() == nil
	}
	ok := say("220 sink ESMTP\r\n")
	for ok {
		connection.SetReadDeadline(time.Now().Add(2 * time.Minute))
		line, err := in.ReadSlice('\n')
		if err != nil {
			return
		}
		verb := ""
		if len(line) >= 4 {
			verb = string(bytes.ToUpper(line[:4]))
		}
		switch verb {
		case "EHLO":
			ok = say("250-sink\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n")
		case "HELO", "MAIL", "RCPT", "RSET", "NOOP":
			ok = say("250 ok\r\n")
		case "DATA":
			ok = say("354 go\r\n") && body(in, maxSize)
			if ok {
				ok = say("250 queued\r\n")
			} else {
				refused.Add(1)
			}
		case "QUIT":
			out.WriteString("221 bye\r\n")
			out.Flush()
			return
		default:
			ok = say("502 not implemented\r\n")
		}
	}
}

// body reads a message up to its final dot and counts it; false when it is too large or the connection ends.
func body(in *bufio.Reader, maxSize int64) bool {
	var size int64
	lineStart := true
	for {
		part, err := in.ReadSlice('\n')
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return false
		}
		if size += int64(len(part)); size > maxSize {
			return false
		}
		if lineStart && string(part) == ".\r\n" {
			break
		}
		lineStart = err == nil
	}
	now := time.Now().UnixNano()
	first.CompareAndSwap(0, now)
	last.Store(now)
	messages.Add(1)
	bytesIn.Add(size)
	return true
}

func cpuSeconds() float64 {
	var usage syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &usage) != nil {
		return 0
	}
	return float64(usage.Utime.Sec+usage.Stime.Sec) + float64(usage.Utime.Usec+usage.Stime.Usec)/1e6
}

func control() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/stats", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(map[string]any{"messages": messages.Load(), "bytes": bytesIn.Load(), "connections": connections.Load(),
			"live": live.Load(), "refused": refused.Load(), "first": first.Load(), "last": last.Load(), "cpu_s": cpuSeconds()})
	})
	mux.HandleFunc("/reset", func(http.ResponseWriter, *http.Request) {
		for _, counter := range []*atomic.Int64{&messages, &bytesIn, &connections, &refused, &first, &last} {
			counter.Store(0)
		}
	})
	return mux
}

func listen(addr string) net.Listener {
	host, _, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		log.Fatalf("smtpsink: %s: a loopback address and a port are needed, e.g. 127.0.0.1:2525", addr)
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		log.Fatalf("smtpsink: %v", err)
	}
	return listener
}

func main() {
	smtpAddr := flag.String("addr", "127.0.0.1:0", "SMTP address; port 0 takes a free one")
	httpAddr := flag.String("stats", "127.0.0.1:0", "HTTP address")
	maxLive := flag.Int64("max-connections", 256, "more get 421")
	maxSize := flag.Int64("max-size", 1<<20, "bytes of a message")
	flag.Parse()
	smtp, stats := listen(*smtpAddr), listen(*httpAddr)
	fmt.Println(smtp.Addr(), stats.Addr())
	go func() { log.Fatal(http.Serve(stats, control())) }()
	for {
		connection, err := smtp.Accept()
		if err != nil {
			log.Fatalf("smtpsink: %v", err)
		}
		if live.Add(1) > *maxLive {
			live.Add(-1)
			fmt.Fprint(connection, "421 busy\r\n")
			connection.Close()
			continue
		}
		connections.Add(1)
		go take(connection, *maxSize)
	}
}
