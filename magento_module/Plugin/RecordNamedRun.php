<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Plugin;

use Magento\Authorization\Model\UserContextInterface;
use Magento\Customer\Api\Data\CustomerInterface;
use Magento\Framework\AuthorizationInterface;
use Magento\Framework\Webapi\Rest\Request;
use Magento\Framework\Webapi\Rest\Response;
use Magento\Framework\Webapi\ServiceOutputProcessor;
use Magento\Sales\Api\Data\OrderInterface;
use Psr\Log\LoggerInterface;
use Throwable;
use Tocsin\BreachNotification\Model\NamedRun;
use Tocsin\BreachNotification\Model\RecordRun;

/**
 * Records the run that a REST request names, when the request's save is done and committed.
 *
 * Not an observer, and no plugin on a repository: within the save, a failed statement of ours could roll back the shop's
 * own (a deadlock ends the whole transaction), and a TypeError would leave its transaction open. Here the answer is being
 * made and no transaction is open: whatever fails costs the record only, is logged and named in the answer's header
 * X-Tocsin-Provenance. A crash between save and record leaves a value without a record, which is found as untagged.
 */
class RecordNamedRun
{
    private const HEADER_OUTCOME = 'X-Tocsin-Provenance';
    private const RESOURCE = 'Tocsin_BreachNotification::provenance_record';

    private Request $request;
    private Response $response;
    private AuthorizationInterface $authorization;
    private UserContextInterface $userContext;
    private RecordRun $recordRun;
    private LoggerInterface $logger;

    public function __construct(
        Request $request,
        Response $response,
        AuthorizationInterface $authorization,
        UserContextInterface $userContext,
        RecordRun $recordRun,
        LoggerInterface $logger
    ) {
        $this->request = $request;
        $this->response = $response;
        $this->authorization = $authorization;
        $this->userContext = $userContext;
        $this->recordRun = $recordRun;
        $this->logger = $logger;
    }

    /**
     * @param mixed $data what the service returned
     */
    public function beforeProcess(ServiceOutputProcessor $subject, $data): void
    {
        if (!$data instanceof CustomerInterface && !$data instanceof OrderInterface) {
            return;
        }
        try {
            if (!in_array($this->request->getMethod(), ['POST', 'PUT'], true)) {
                return;
            }
            $body = $this->request->getBodyParams();
            $entity = is_array($body)
                ? NamedRun::member($body, $data instanceof CustomerInterface ? 'customer' : 'entity') : null;
            if (!is_array($entity)) {
                return;
            }
            $run = NamedRun::of($entity, fn (string $name) => $this->header($name));
            if ($run === null) {
                return;
            }
            $this->response->setHeader(self::HEADER_OUTCOME, $this->outcome($data, $entity, $run), true);
        } catch (Throwable $fault) {
            $this->logger->error('Tocsin: a save was done, its provenance not recorded', [
                'fault' => get_class($fault), 'code' => $fault->getCode(), 'at' => $fault->getFile() . ':' . $fault->getLine(),
            ]);
            $this->response->setHeader(self::HEADER_OUTCOME, 'failed; the value counts as untagged', true);
        }
    }

    /**
     * @param CustomerInterface|OrderInterface $saved
     * @param mixed[] $entity
     */
    private function outcome($saved, array $entity, NamedRun $run): string
    {
        if (!$this->authorization->isAllowed(self::RESOURCE)) {
            $this->logger->warning('Tocsin: a caller named a run without the right to record provenance');
            return 'refused: needs ' . self::RESOURCE;
        }
        $source = $this->source();
        $outcomes = [];
        if ($saved instanceof OrderInterface) {
            $id = (int)$saved->getEntityId();
            $outcomes[] = $this->recordRun->execute($run, "order/$id", 'order', $id, NamedRun::written($entity), $source);
        } else {
            $id = (int)$saved->getId();
            $root = "customer/$id";
            $outcomes[] = $this->recordRun->execute($run, $root, 'customer', $id, NamedRun::written($entity), $source);
            foreach ($this->addresses($saved, $entity) as $addressId => $address) {
                $outcomes[] = $this->recordRun->execute(
                    $run,
                    $root,
                    'customer_address',
                    $addressId,
                    NamedRun::written($address),
                    $source
                );
            }
        }
        $counts = ['recorded' => 0, 'repeated' => 0, 'refused' => 0];
        $reason = '';
        foreach ($outcomes as $of) {
            foreach ($of as $attribute => $outcome) {
                isset($counts[$outcome]) ? $counts[$outcome]++ : $counts['refused']++;
                if (!isset($counts[$outcome])) {
                    $reason = "; $attribute: $outcome";
                }
            }
        }
        if ($reason !== '') {
            $this->logger->warning('Tocsin: provenance of a save was refused' . $reason);
        }
        $said = sprintf('recorded=%d repeated=%d refused=%d', ...array_values($counts)) . $reason;
        return substr((string)preg_replace('/[^\x20-\x7e]/', '?', $said), 0, 300);
    }

    /**
     * Find the saved addresses of those in the request: by id, and new ones (the highest ids) in their order.
     *
     * @param mixed[] $entity
     * @return array<int, mixed[]> address id => address as in the request
     */
    private function addresses(CustomerInterface $saved, array $entity): array
    {
        $given = NamedRun::member($entity, 'addresses');
        $given = is_array($given) ? array_filter($given, 'is_array') : [];
        $ids = array_map(static fn ($address) => (int)$address->getId(), $saved->getAddresses() ?? []);
        $found = [];
        $new = [];
        foreach ($given as $address) {
            $id = (int)NamedRun::member($address, 'id');
            if ($id > 0 && in_array($id, $ids, true)) {
                $found[$id] = $address;
            } elseif ($id === 0) {
                $new[] = $address;
            }
        }
        $unknown = array_values(array_diff($ids, array_keys($found)));
        sort($unknown);
        if (count($unknown) === count($new)) {
            $found += $new === [] ? [] : array_combine($unknown, $new);
        }
        return $found;
    }

    private function header(string $name): ?string
    {
        $value = $this->request->getHeader($name);
        return is_string($value) ? $value : null;
    }

    private function source(): ?string
    {
        $kinds = [
            UserContextInterface::USER_TYPE_INTEGRATION => 'integration',
            UserContextInterface::USER_TYPE_ADMIN => 'admin',
        ];
        $kind = $kinds[$this->userContext->getUserType()] ?? null;
        return $kind === null ? null : $kind . '/' . (int)$this->userContext->getUserId();
    }
}
