// Grabs in Go: the work of nginx_grabs.lua on net/http, as one would write it with the standard
// library alone. The ticket's MAC is not checked, each grab is one EVALSHA of one_grab.lua over a
// kept connection, and nothing is handed to a broker.
//
//	grabs -port 8000 -settings settings.json
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

type settings struct {
	Redis     redisSettings
	Script    string
	Keys      []string
	CallMaxMs int64 `json:"call_max_ms"`
	OutboxMax int64 `json:"outbox_max"`
	Refusals  map[string]refusal
}

type redisSettings struct {
	Host, User, Password string
	Port, Database       int
	ConnectionsKept      int `json:"connections_kept"`
}

type refusal struct {
	Status int
	Body   string
}

func main() {
	port := flag.Int("port", 0, "port on the loopback interface")
	path := flag.String("settings", "", "file of settings: JSON, as loadtest/bench/peers/servers.py writes it")
	flag.Parse()
	text, err := os.ReadFile(*path)
	if err != nil {
		log.Fatal(err)
	}
	var known settings
	if err := json.Unmarshal(text, &known); err != nil {
		log.Fatalf("%s: %v", *path, err)
	}
	shop := &shop{settings: known, redis: newPool(known.Redis)}
	http.HandleFunc("/v1/sales/", shop.grab)
	log.Fatal(http.ListenAndServe(fmt.Sprintf("127.0.0.1:%d", *port), nil))
}

// The grabs.

type shop struct {
	settings
	redis      *pool
	sales      sync.Map // sale id -> *sale
	ordersMade uint64
	sha        atomic.Value // of the script, once Redis has told it
}

type sale struct {
	keys []string
	// Outbox entries, oldest first. There is no broker to wait for, so a later grab drops each of
	// them, as the gateway's do for theirs.
	entries chan string
}

func (s *shop) saleOf(saleID string) *sale {
	if found, ok := s.sales.Load(saleID); ok {
		return found.(*sale)
	}
	made := &sale{entries: make(chan string, s.OutboxMax)}
	for _, template := range s.Keys {
		made.keys = append(made.keys, strings.Replace(template, "%s", saleID, 1))
	}
	found, _ := s.sales.LoadOrStore(saleID, made)
	return found.(*sale)
}

func (s *sale) toBeDropped(outboxID string) {
	select {
	case s.entries <- outboxID:
	default: // more than the script lets lie in an outbox: it is there no longer
	}
}

func (s *sale) takeEntry() string {
	select {
	case outboxID := <-s.entries:
		return outboxID
	default:
		return ""
	}
}

func (s *shop) grab(w http.ResponseWriter, r *http.Request) {
	saleID, ofGrabs := cutSuffix(strings.TrimPrefix(r.URL.Path, "/v1/sales/"), "/grabs")
	if !ofGrabs {
		http.NotFound(w, r)
		return
	}
	ticket := strings.SplitN(r.Header.Get("Seckill-Ticket"), "~", 4) // kid~expires~buyer~mac
	if len(ticket) < 4 || ticket[2] == "" {
		s.refuse(w, "ticket")
		return
	}
	var wish struct{ Quantity int64 }
	if err := json.NewDecoder(r.Body).Decode(&wish); err != nil {
		s.refuse(w, "Q")
		return
	}

	sale, orderID := s.saleOf(saleID), s.newOrderID()
	dropped := sale.takeEntry()
	outcome, text, err := s.call(sale, orderID, ticket[2], wish.Quantity, dropped)
	if err != nil {
		if dropped != "" {
			sale.toBeDropped(dropped)
		}
		log.Printf("no grab: %v", err)
		s.refuse(w, "U")
		return
	}
	switch outcome {
	case "A":
		sale.toBeDropped(text)
		body := `{"order_id":"` + orderID + `","status":"queued","next_poll_ms":500}`
		answer(w, 202, "application/json", body)
	case "D":
		answer(w, 200, "application/json", `{"order_id":"`+text+`","status":"yours"}`)
	default:
		s.refuse(w, outcome)
	}
}

// call runs the script and returns the outcome's letter with what belongs to it: of A the outbox
// entry, of D the first order.
func (s *shop) call(
	sale *sale, orderID, buyerID string, quantity int64, dropped string,
) (outcome, text string, err error) {
	deadlineMs := time.Now().UnixMilli() + s.CallMaxMs
	sha, _ := s.sha.Load().(string)
	command := append([]string{"EVALSHA", sha, "4"}, sale.keys...)
	command = append(command, orderID, buyerID, strconv.FormatInt(quantity, 10),
		strconv.FormatInt(deadlineMs, 10), dropped, strconv.FormatInt(s.OutboxMax, 10))

	link, err := s.redis.take()
	if err != nil {
		return "", "", err
	}
	reply, err := link.do(command)
	if err != nil && strings.HasPrefix(err.Error(), "NOSCRIPT") {
		var loaded interface{}
		if loaded, err = link.do([]string{"SCRIPT", "LOAD", s.Script}); err == nil {
			command[1], _ = loaded.(string)
			s.sha.Store(command[1])
			reply, err = link.do(command)
		}
	}
	s.redis.giveBack(link)
	if err != nil {
		return "", "", err
	}
	items, _ := reply.([]interface{})
	if len(items) < 6 { // LATE, MISSING or FENCED, and the time
		return "", "", fmt.Errorf("the script said %v", reply)
	}
	outcome, _ = items[5].(string)
	text, _ = items[4].(string)
	if len(items) > 6 {
		text, _ = items[6].(string)
	}
	return outcome, text, nil
}

// newOrderID makes an id in the form of seckill/order_ids.py, of sale number 0. It is unique, as
// one process counts.
func (s *shop) newOrderID() string {
	nowMs := time.Now().UnixMilli()
	made := atomic.AddUint64(&s.ordersMade, 1)
	return fmt.Sprintf("%08x-%04x-8000-8000-%012x", nowMs>>16, nowMs&0xffff, made)
}

func (s *shop) refuse(w http.ResponseWriter, name string) {
	answer(w, s.Refusals[name].Status, "application/problem+json", s.Refusals[name].Body)
}

func answer(w http.ResponseWriter, status int, contentType, body string) {
	w.Header().Set("Content-Type", contentType)
	w.WriteHeader(status)
	io.WriteString(w, body)
}

func cutSuffix(text, suffix string) (string, bool) {
	return strings.TrimSuffix(text, suffix), strings.HasSuffix(text, suffix)
}

// Redis.

type pool struct {
	redisSettings
	free chan *link
}

func newPool(of redisSettings) *pool {
	return &pool{of, make(chan *link, of.ConnectionsKept)}
}

// take returns a connection that nobody uses, or a new one.
func (p *pool) take() (*link, error) {
	select {
	case free := <-p.free:
		return free, nil
	default:
	}
	socket, err := net.Dial("tcp", net.JoinHostPort(p.Host, strconv.Itoa(p.Port)))
	if err != nil {
		return nil, err
	}
	made := &link{socket: socket, in: bufio.NewReader(socket)}
	if p.Password != "" {
		_, err = made.do([]string{"AUTH", p.User, p.Password})
	}
	if err == nil && p.Database != 0 {
		_, err = made.do([]string{"SELECT", strconv.Itoa(p.Database)})
	}
	if err != nil {
		socket.Close()
		return nil, err
	}
	return made, nil
}

func (p *pool) giveBack(l *link) {
	if !l.broken {
		select {
		case p.free <- l:
			return
		default:
		}
	}
	l.socket.Close()
}

type link struct {
	socket net.Conn
	in     *bufio.Reader
	out    []byte
	broken bool
}

// refused is an error that Redis answers: the connection is good for the next command.
type refused string

func (r refused) Error() string { return string(r) }

func (l *link) do(command []string) (interface{}, error) {
	l.out = append(l.out[:0], '*')
	l.out = append(strconv.AppendInt(l.out, int64(len(command)), 10), "\r\n"...)
	for _, item := range command {
		l.out = append(strconv.AppendInt(append(l.out, '$'), int64(len(item)), 10), "\r\n"...)
		l.out = append(append(l.out, item...), "\r\n"...)
	}
	_, err := l.socket.Write(l.out)
	var reply interface{}
	if err == nil {
		reply, err = l.read()
	}
	var said refused
	l.broken = err != nil && !errors.As(err, &said)
	return reply, err
}

func (l *link) read() (interface{}, error) {
	line, err := l.in.ReadString('\n')
	if err != nil {
		return nil, err
	}
	if len(line) < 3 {
		return nil, fmt.Errorf("no reply of Redis: %q", line)
	}
	kind, rest := line[0], line[1:len(line)-2]
	switch kind {
	case '+':
		return rest, nil
	case '-':
		return nil, refused(rest)
	}
	number, err := strconv.Atoi(rest)
	if err != nil {
		return nil, fmt.Errorf("no reply of Redis: %q", line)
	}
	switch {
	case kind == ':':
		return number, nil
	case number < 0:
		return nil, nil
	case kind == '$':
		text := make([]byte, number+2)
		if _, err := io.ReadFull(l.in, text); err != nil {
			return nil, err
		}
		return string(text[:number]), nil
	case kind == '*':
		items := make([]interface{}, number)
		for i := range items {
			if items[i], err = l.read(); err != nil {
				return nil, err
			}
		}
		return items, nil
	}
	return nil, fmt.Errorf("no reply of Redis: %q", line)
}
