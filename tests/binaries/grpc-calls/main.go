// A client of the `grpc` server (tests/src/bin/grpc.rs) by Go's library: prints what became of each call as JSON.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

const turns = 50

func who(channel *grpc.ClientConn, ctx context.Context, method string) (string, error) {
	var answer wrapperspb.StringValue
	err := channel.Invoke(ctx, method, wrapperspb.String(""), &answer)
	return answer.Value, err
}

func chat(channel *grpc.ClientConn, ctx context.Context) error {
	stream, err := channel.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, "/weft.test.Echo/Chat")
	if err != nil {
		return err
	}
	for turn := 0; turn < turns; turn++ {
		if err := stream.SendMsg(wrapperspb.String(strconv.Itoa(turn))); err != nil {
			return err
		}
		var answer wrapperspb.StringValue
		if err := stream.RecvMsg(&answer); err != nil {
			return err
		}
		if answer.Value != strconv.Itoa(turn) {
			return fmt.Errorf("%q is no answer to %d", answer.Value, turn)
		}
	}
	return stream.CloseSend()
}

func main() {
	channel, err := grpc.NewClient("passthrough:///"+os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		panic(err)
	}
	said := map[string]string{}
	outcome := func(name string, err error) {
		said[name] = fmt.Sprintf("%s: %s", status.Code(err), status.Convert(err).Message())
	}
	with := func(name string) context.Context {
		return metadata.AppendToOutgoingContext(context.Background(), name, "1")
	}
	address, err := who(channel, context.Background(), "/weft.test.Echo/Who")
	if err == nil && address == "" {
		err = fmt.Errorf("no address")
	}
	outcome("unary", err)
	outcome("turns", chat(channel, context.Background()))
	late, cancel := context.WithTimeout(with("x-late"), 300*time.Millisecond)
	_, err = who(channel, late, "/weft.test.Echo/Who")
	cancel()
	outcome("late", err)
	_, err = who(channel, with("x-abort"), "/weft.test.Echo/Who")
	outcome("aborted", err)
	_, err = who(channel, context.Background(), "/weft.test.Secret/Who")
	outcome("denied", err)
	_, err = who(channel, context.Background(), "/weft.test.Echo/Nothing")
	outcome("unknown", err)
	text, err := json.Marshal(said)
	if err != nil {
		panic(err)
	}
	fmt.Println(string(text))
}
