// Command aws is a fast local stand-in for what delivery asks of Amazon: SES v2 SendBulkEmail, what stands of account and
// identities there and in SNS, and a queue of SQS. It checks the shape of requests, not their signatures or templates, and
// counts what it accepted for each recipient. Beside the AWS paths it has:
//
//	GET  /stats              totals; accepted_at holds when the first and the last message came, in Unix nanoseconds
//	GET  /recipients         how many messages each recipient was sent, by address
//	POST /reset              forgets all counts, and what lies in the queue
//	POST /latency?ms=40      how long every answer of SES takes
//	POST /queue              puts each line of the body into the queue
//	POST /certificate?path=  keeps the body, and gives it to whoever asks for that path
package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	maxBody        = 10 << 20 // bytes; SES takes 40 MB, which no bulk of templates reaches
	maxBulkEntries = 50       // as SES has it
)

type service struct {
	accepted *counts
	queue    queue

	latency                                      atomic.Int64 // nanoseconds
	messages                                     atomic.Uint64
	bulk, taken, first, last, malformed, bytesIn atomic.Int64
	live, mostLive                               atomic.Int64

	certificates sync.Map
}

var buffers = sync.Pool{New: func() any { return bytes.NewBuffer(make([]byte, 0, 128<<10)) }}

func (s *service) stats() map[string]any {
	distinct, most := s.accepted.summary()
	return map[string]any{
		"calls":             s.bulk.Load(),
		"accepted":          s.taken.Load(),
		"recipients":        distinct,
		"max_per_recipient": most,
		"malformed":         s.malformed.Load(),
		"bytes_in":          s.bytesIn.Load(),
		"calls_at_once":     s.mostLive.Load(),
		"accepted_at":       []int64{s.first.Load(), s.last.Load()},
		"queued":            s.queue.length(),
	}
}

func (s *service) reset() {
	for _, counter := range []*atomic.Int64{&s.bulk, &s.taken, &s.first, &s.last, &s.malformed, &s.bytesIn, &s.mostLive} {
		counter.Store(0)
	}
	s.accepted.clear()
	s.queue.clear()
}

func (s *service) refuse(w http.ResponseWriter, why string) {
	s.malformed.Add(1)
	w.Header().Set("X-Amzn-ErrorType", "BadRequestException")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusBadRequest)
	json.NewEncoder(w).Encode(map[string]string{"message": why})
}

func (s *service) sendBulkEmail(w http.ResponseWriter, r *http.Request) {
	s.bulk.Add(1)
	live := s.live.Add(1)
	defer s.live.Add(-1)
	for most := s.mostLive.Load(); live > most && !s.mostLive.CompareAndSwap(most, live); most = s.mostLive.Load() {
	}
	body := buffers.Get().(*bytes.Buffer)
	defer buffers.Put(body)
	body.Reset()
	_, err := io.Copy(body, http.MaxBytesReader(w, r.Body, maxBody))
	s.bytesIn.Add(int64(body.Len()))
	if wait := s.latency.Load(); wait > 0 {
		time.Sleep(time.Duration(wait))
	}
	if err != nil || len(r.Header.Get("Authorization")) < 40 {
		s.refuse(w, "the body could not be read, or nobody signed it")
		return
	}
	entries := destinations(body.Bytes())
	if len(entries) == 0 || len(entries) > maxBulkEntries {
		s.refuse(w, fmt.Sprintf("BulkEmailEntries: %d entries with ToAddresses, 1 to %d needed", len(entries), maxBulkEntries))
		return
	}
	body.Reset()
	body.WriteString(`{"BulkEmailEntryResults":[`)
	for i, recipients := range entries {
		if i > 0 {
			body.WriteByte(',')
		}
		if len(recipients) != 1 {
			body.WriteString(`{"Status":"INVALID_PARAMETER","Error":"no ToAddresses"}`)
			continue
		}
		s.accepted.add(recipients[0])
		s.taken.Add(1)
		body.WriteString(`{"Status":"SUCCESS","MessageId":"`)
		s.writeMessageID(body)
		body.WriteString(`"}`)
	}
	body.WriteString(`]}`)
	now := time.Now().UnixNano()
	s.first.CompareAndSwap(0, now)
	s.last.Store(now)
	header := w.Header()
	header["Content-Type"] = []string{"application/json"}
	header["Content-Length"] = []string{strconv.Itoa(body.Len())}
	w.Write(body.Bytes())
}

// writeMessageID writes 60 characters, as long as those of SES.
func (s *service) writeMessageID(out *bytes.Buffer) {
	fmt.Fprintf(out, "0100019b7f3a2c5d-%012x-7a1e-4c2b-9f6d-52d0c3a1b2e4-000", s.messages.Add(1))
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	json.NewEncoder(w).Encode(value)
}

// What STS and SNS, which still speak XML, answer to the actions that are asked: who we are, and an account for SMS outside
// its sandbox, from whose list nobody opted out.
var results = map[string]string{
	"GetCallerIdentity": "<Arn>arn:aws:iam::123456789012:root</Arn><UserId>x</UserId><Account>123456789012</Account>",
	"GetSMSAttributes": "<attributes><entry><key>MonthlySpendLimit</key><value>1000000</value></entry>" +
		"<entry><key>DeliveryStatusIAMRole</key><value>arn:aws:iam::123456789012:role/sns</value></entry>" +
		"<entry><key>DeliveryStatusSuccessSamplingRate</key><value>100</value></entry></attributes>",
	"GetSMSSandboxAccountStatus": "<IsInSandbox>false</IsInSandbox>",
	"ListPhoneNumbersOptedOut":   "<phoneNumbers/>",
	"ListOriginationNumbers":     "<PhoneNumbers/>",
}

// target answers the APIs that have no paths: SQS, CloudWatch Logs, in which nothing ever stands, STS and SNS.
func (s *service) target(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		MaxNumberOfMessages int
		Entries             []struct{ Id, ReceiptHandle string }
	}
	if r.Header.Get("X-Amz-Target") == "" {
		action := r.PostFormValue("Action")
		w.Header().Set("Content-Type", "text/xml")
		fmt.Fprintf(w, "<%[1]sResponse><%[1]sResult>%[2]s</%[1]sResult></%[1]sResponse>", action, results[action])
		return
	}
	if json.NewDecoder(r.Body).Decode(&asked) != nil {
		s.refuse(w, "no JSON")
		return
	}
	switch _, operation, _ := strings.Cut(r.Header.Get("X-Amz-Target"), "."); operation {
	case "GetQueueUrl":
		writeJSON(w, map[string]string{"QueueUrl": "http://" + r.Host + "/queue/receipts"})
	case "ReceiveMessage":
		type message struct{ MessageId, ReceiptHandle, Body, MD5OfBody string }
		var found []message
		for _, each := range s.queue.take(asked.MaxNumberOfMessages) {
			found = append(found, message{each.handle, each.handle, each.body, each.md5})
		}
		writeJSON(w, map[string]any{"Messages": found})
	case "DeleteMessageBatch":
		done := make([]map[string]string, 0, len(asked.Entries))
		for _, each := range asked.Entries {
			s.queue.remove(each.ReceiptHandle)
			done = append(done, map[string]string{"Id": each.Id})
		}
		writeJSON(w, map[string]any{"Successful": done, "Failed": []string{}})
	default:
		writeJSON(w, map[string]any{"logGroups": []string{}, "events": []string{}})
	}
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := r.URL.Path
	switch {
	case path == "/v2/email/outbound-bulk-emails":
		s.sendBulkEmail(w, r)
	case strings.HasPrefix(path, "/v2/email/identities/"):
		writeJSON(w, map[string]any{"VerifiedForSendingStatus": true, "IdentityType": "DOMAIN"})
	case path == "/v2/email/account":
		quota := map[string]any{"Max24HourSend": -1, "MaxSendRate": 1000000, "SentLast24Hours": 0}
		writeJSON(w, map[string]any{"ProductionAccessEnabled": true, "SendingEnabled": true, "EnforcementStatus": "HEALTHY",
			"DedicatedIpAutoWarmupEnabled": false, "SendQuota": quota})
	case strings.HasSuffix(path, "/event-destinations"):
		events := []string{"SEND", "DELIVERY", "BOUNCE", "COMPLAINT", "DELIVERY_DELAY", "REJECT", "RENDERING_FAILURE"}
		topic := map[string]string{"TopicArn": "arn:aws:sns:eu-central-1:123456789012:receipts"}
		writeJSON(w, map[string]any{"EventDestinations": []any{
			map[string]any{"Name": "receipts", "Enabled": true, "MatchingEventTypes": events, "SnsDestination": topic}}})
	case strings.HasPrefix(path, "/v2/email/configuration-sets/"):
		writeJSON(w, map[string]any{"ConfigurationSetName": "tocsin", "SendingOptions": map[string]bool{"SendingEnabled": true}})
	case path == "/stats":
		writeJSON(w, s.stats())
	case path == "/recipients":
		found := map[string]uint32{}
		s.accepted.each(func(name string, count uint32) { found[name] = count })
		writeJSON(w, found)
	case path == "/reset":
		s.reset()
	case path == "/latency":
		ms, _ := strconv.Atoi(r.URL.Query().Get("ms"))
		s.latency.Store(int64(time.Duration(ms) * time.Millisecond))
	case path == "/queue":
		text, _ := io.ReadAll(r.Body)
		s.queue.put(strings.Split(strings.TrimSpace(string(text)), "\n"))
	case path == "/certificate":
		text, _ := io.ReadAll(r.Body)
		s.certificates.Store(r.URL.Query().Get("path"), text)
	default:
		if text, known := s.certificates.Load(path); known {
			w.Write(text.([]byte))
			return
		}
		s.target(w, r)
	}
}

func main() {
	addr := flag.String("addr", "127.0.0.1:0", "loopback address; port 0 takes a free one")
	flag.Parse()
	host, _, err := net.SplitHostPort(*addr)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		log.Fatalf("aws: --addr %s: a loopback address and a port are needed, e.g. 127.0.0.1:0", *addr)
	}
	listener, err := net.Listen("tcp", *addr)
	if err != nil {
		log.Fatalf("aws: %v", err)
	}
	fmt.Println(listener.Addr())
	log.Fatal(http.Serve(listener, &service{accepted: newCounts()}))
}
