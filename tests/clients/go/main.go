// An agent in Go: the client is generated from the OpenAPI document, and used for real.
//
//	use SOCKET MEMORY SESSION
//
// Whatever is not as it should be ends it with code 1; at the end it prints what it saw, as JSON.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"reflect"
	"strings"

	"example.test/holdfast/api"
)

func must[T any](value T, err error) T {
	if err != nil {
		log.Panic(err)
	}
	return value
}

func check(holds bool, format string, values ...any) {
	if !holds {
		log.Panicf(format, values...)
	}
}

// ok returns the answer of a call that went well.
func ok[T any](value *T, body []byte) T {
	check(value != nil, "refused: %s", body)
	return *value
}

// refused checks the code of a problem.
func refused(problem *api.Problem, code string, body []byte) api.Problem {
	check(problem != nil && problem.Code == code, "not %s: %s", code, body)
	return *problem
}

func main() {
	log.SetFlags(log.Lshortfile)
	socket, memory, session := os.Args[1], os.Args[2], os.Args[3]
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}
	client := must(api.NewClientWithResponses(
		"http://localhost", api.WithHTTPClient(&http.Client{Transport: transport})))
	ctx := context.Background()

	offered := must(client.ListMemoriesWithResponse(ctx))
	check(ok(offered.JSON200, offered.Body).Memories[0].Name == memory, "%s", offered.Body)

	hello := map[string]any{"role": "user", "content": "Grüße, wo ist mein Paket? 📦"}
	key := "request-1"
	append_ := func() api.AppendResult {
		done := must(client.AppendMessagesWithResponse(
			ctx, memory, session,
			&api.AppendMessagesParams{IdempotencyKey: &key}, api.AppendBody{Message: hello}))
		return ok(done.JSON200, done.Body)
	}
	check(append_().Count == 1 && append_().Duplicate, "an id is stored once")

	limit := 1
	page := must(client.ReadRecordsWithResponse(
		ctx, memory, session, &api.ReadRecordsParams{Limit: &limit}))
	record := ok(page.JSON200, page.Body).Records[0]
	check(reflect.DeepEqual(record.Item, any(hello)) && *record.Id == key, "%v", record)

	ttl, none := "30s", "0s"
	acquired := must(client.AcquireTurnWithResponse(
		ctx, memory, session, nil, api.TurnBody{Ttl: &ttl}))
	grant := ok(acquired.JSON201, acquired.Body)
	other := must(client.AcquireTurnWithResponse(
		ctx, memory, session, nil, api.TurnBody{Wait: &none}))
	busy := refused(other.ApplicationproblemJSON409, "SessionBusy", other.Body)
	check(*busy.Remaining > 0, "%v", busy)

	labels := []string{"team:red", "tier:a,b"}
	two := []any{
		map[string]any{"role": "assistant", "content": "Unterwegs."},
		map[string]any{"role": "user", "content": "Danke"},
	}
	under := &api.AppendMessagesParams{HoldfastTurn: &grant.Token, Label: &labels}
	done := must(client.AppendMessagesWithResponse(
		ctx, memory, session, under, api.AppendBody{Messages: &two}))
	ok(done.JSON200, done.Body)
	renewed := must(client.RenewTurnWithResponse(ctx, memory, session, grant.Token, nil))
	check(ok(renewed.JSON200, renewed.Body).Fence == grant.Fence, "%s", renewed.Body)
	released := must(client.ReleaseTurnWithResponse(ctx, memory, session, grant.Token, nil))
	check(released.StatusCode() == http.StatusNoContent, "%s", released.Body)
	late := must(client.AppendMessagesWithResponse(
		ctx, memory, session, under, api.AppendBody{Message: "late"}))
	refused(late.ApplicationproblemJSON423, "LeaseLost", late.Body)

	nobody := must(client.ReadMessagesWithResponse(ctx, "nobody", session, nil))
	refused(nobody.ApplicationproblemJSON404, "MemoryNotFound", nobody.Body)
	tokens := 1
	small := must(client.ReadMessagesWithResponse(
		ctx, memory, session, &api.ReadMessagesParams{MaxTokens: &tokens}))
	check(*refused(small.ApplicationproblemJSON422, "BudgetTooSmall", small.Body).Needed > 1, "needed")

	tokens = 1000
	read := must(client.ReadMessagesWithResponse(
		ctx, memory, session, &api.ReadMessagesParams{MaxTokens: &tokens}))
	exported := must(client.ExportSessionWithResponse(ctx, memory, session, nil))
	health := must(client.GetSessionWithResponse(ctx, memory, session, nil))
	fmt.Println(string(must(json.Marshal(map[string]any{
		"messages": ok(read.JSON200, read.Body).Messages,
		"tokens":   ok(health.JSON200, health.Body).Tokens,
		"lines":    strings.Count(string(exported.Body), "\n"),
	}))))
}
