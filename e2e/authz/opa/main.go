// opa answers envoy.service.auth.v3 from a policy in Rego, with OPA's own library: the question is `input.attributes`, the
// answer is `data.envoy.authz.allow`, a truth value or an object, as users of OPA write it.
//
//	opa -listen 127.0.0.1:9191 -policy policy.rego
package main

import (
	"context"
	"encoding/json"
	"flag"
	"log"
	"net"
	"net/url"
	"os"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	envoytype "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/open-policy-agent/opa/v1/rego"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"
)

type server struct {
	auth.UnimplementedAuthorizationServer
	query rego.PreparedEvalQuery
}

// answer is what the policy says, as OPA's users write it.
type answer struct {
	Allowed               bool              `json:"allowed"`
	Headers               map[string]string `json:"headers"`
	Body                  string            `json:"body"`
	HTTPStatus            int32             `json:"http_status"`
	RequestHeadersRemove  []string          `json:"request_headers_to_remove"`
	ResponseHeadersToAdd  map[string]string `json:"response_headers_to_add"`
	QueryParametersToSet  map[string]string `json:"query_parameters_to_set"`
	QueryParametersRemove []string          `json:"query_parameters_to_remove"`
	DynamicMetadata       map[string]any    `json:"dynamic_metadata"`
}

func main() {
	listen := flag.String("listen", "127.0.0.1:9191", "address")
	policy := flag.String("policy", "policy.rego", "file")
	flag.Parse()
	text, err := os.ReadFile(*policy)
	if err != nil {
		log.Fatal(err)
	}
	query, err := rego.New(rego.Query("data.envoy.authz.allow"), rego.Module(*policy, string(text))).PrepareForEval(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	grpcServer := grpc.NewServer()
	auth.RegisterAuthorizationServer(grpcServer, &server{query: query})
	log.Printf("listening on %s", *listen)
	log.Fatal(grpcServer.Serve(listener))
}

func (s *server) Check(ctx context.Context, request *auth.CheckRequest) (*auth.CheckResponse, error) {
	input, err := inputOf(request)
	if err != nil {
		return nil, err
	}
	results, err := s.query.Eval(ctx, rego.EvalInput(input))
	if err != nil {
		return nil, err
	}
	said := answer{}
	if len(results) > 0 {
		switch value := results[0].Expressions[0].Value.(type) {
		case bool:
			said.Allowed = value
		default:
			text, err := json.Marshal(value)
			if err != nil {
				return nil, err
			}
			if err := json.Unmarshal(text, &said); err != nil {
				return nil, err
			}
		}
	}
	return said.response()
}

func inputOf(request *auth.CheckRequest) (map[string]any, error) {
	text, err := protojson.Marshal(request)
	if err != nil {
		return nil, err
	}
	input := map[string]any{}
	if err := json.Unmarshal(text, &input); err != nil {
		return nil, err
	}
	target, err := url.Parse(request.GetAttributes().GetRequest().GetHttp().GetPath())
	if err != nil {
		return nil, err
	}
	path := []any{}
	for _, part := range strings.Split(strings.TrimPrefix(target.Path, "/"), "/") {
		path = append(path, part)
	}
	input["parsed_path"] = path
	query := map[string]any{}
	for name, values := range target.Query() {
		list := []any{}
		for _, value := range values {
			list = append(list, value)
		}
		query[name] = list
	}
	input["parsed_query"] = query
	return input, nil
}

// Headers without `append`, as most servers leave it.
func options(headers map[string]string) []*core.HeaderValueOption {
	list := []*core.HeaderValueOption{}
	for name, value := range headers {
		list = append(list, &core.HeaderValueOption{Header: &core.HeaderValue{Key: name, Value: value}})
	}
	return list
}

func (a *answer) response() (*auth.CheckResponse, error) {
	metadata, err := structpb.NewStruct(a.DynamicMetadata)
	if err != nil {
		return nil, err
	}
	if !a.Allowed {
		denied := &auth.DeniedHttpResponse{Body: a.Body, Headers: options(a.Headers)}
		if a.HTTPStatus != 0 {
			denied.Status = &envoytype.HttpStatus{Code: envoytype.StatusCode(a.HTTPStatus)}
		}
		return &auth.CheckResponse{
			Status:          &status.Status{Code: int32(code.Code_PERMISSION_DENIED)},
			HttpResponse:    &auth.CheckResponse_DeniedResponse{DeniedResponse: denied},
			DynamicMetadata: metadata,
		}, nil
	}
	ok := &auth.OkHttpResponse{
		Headers:                 options(a.Headers),
		HeadersToRemove:         a.RequestHeadersRemove,
		ResponseHeadersToAdd:    options(a.ResponseHeadersToAdd),
		QueryParametersToRemove: a.QueryParametersRemove,
	}
	for name, value := range a.QueryParametersToSet {
		ok.QueryParametersToSet = append(ok.QueryParametersToSet, &core.QueryParameter{Key: name, Value: value})
	}
	return &auth.CheckResponse{
		Status:          &status.Status{Code: int32(code.Code_OK)},
		HttpResponse:    &auth.CheckResponse_OkResponse{OkResponse: ok},
		DynamicMetadata: metadata,
	}, nil
}
