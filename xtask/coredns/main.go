// CoreDNS with only the plugins that a cluster's DNS needs: the full set drags in
// the clients of several clouds, which would double the build time for nothing.
package main

import (
	"github.com/coredns/coredns/coremain"

	// A plugin registers itself when it is imported; the order in which they
	// run is fixed by CoreDNS, not by this list.
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/health"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/loadbalance"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/template"
)

func main() {
	coremain.Run()
}
