<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Plugin;

use Magento\Customer\Api\Data\CustomerInterface;
use Magento\Customer\Api\Data\CustomerSearchResultsInterface;
use Magento\Framework\Api\ExtensionAttributesFactory;
use Magento\Framework\AuthorizationInterface;
use Magento\Framework\Webapi\Rest\Request;
use Magento\Framework\Webapi\ServiceOutputProcessor;
use Magento\Sales\Api\Data\OrderInterface;
use Magento\Sales\Api\Data\OrderSearchResultInterface;
use Psr\Log\LoggerInterface;
use Throwable;
use Tocsin\BreachNotification\Model\MakeRecord;
use Tocsin\BreachNotification\Model\ResourceModel\ProvenanceTable;

/**
 * Adds provenance to customers and orders in REST answers, for callers with the right: one query an answer.
 *
 * Only the answer is touched: no read within the shop pays for it, and no save, whose answer never shows any. The right is
 * asked for here alone, see extension_attributes.xml. A fault of ours leaves it out and is logged.
 */
class ShowProvenance
{
    private const RESOURCES = [
        'customer_id' => 'Tocsin_BreachNotification::provenance_of_customer',
        'order_id' => 'Tocsin_BreachNotification::provenance_of_order',
    ];

    private Request $request;
    private AuthorizationInterface $authorization;
    private ProvenanceTable $table;
    private MakeRecord $makeRecord;
    private ExtensionAttributesFactory $extensionFactory;
    private LoggerInterface $logger;

    public function __construct(
        Request $request,
        AuthorizationInterface $authorization,
        ProvenanceTable $table,
        MakeRecord $makeRecord,
        ExtensionAttributesFactory $extensionFactory,
        LoggerInterface $logger
    ) {
        $this->request = $request;
        $this->authorization = $authorization;
        $this->table = $table;
        $this->makeRecord = $makeRecord;
        $this->extensionFactory = $extensionFactory;
        $this->logger = $logger;
    }

    /**
     * @param mixed $data what the service returned
     */
    public function beforeProcess(ServiceOutputProcessor $subject, $data): void
    {
        try {
            if ($this->request->getMethod() !== 'GET') {
                if ($data instanceof CustomerInterface || $data instanceof OrderInterface) {
                    $this->leaveOutWhatWasGiven($data);
                }
            } elseif ($data instanceof CustomerInterface) {
                $this->show('customer_id', CustomerInterface::class, [(int)$data->getId() => $data]);
            } elseif ($data instanceof OrderInterface) {
                $this->show('order_id', OrderInterface::class, [(int)$data->getEntityId() => $data]);
            } elseif ($data instanceof CustomerSearchResultsInterface) {
                $customers = [];
                foreach ($data->getItems() as $customer) {
                    $customers[(int)$customer->getId()] = $customer;
                }
                $this->show('customer_id', CustomerInterface::class, $customers);
            } elseif ($data instanceof OrderSearchResultInterface) {
                $orders = [];
                foreach ($data->getItems() as $order) {
                    $orders[(int)$order->getEntityId()] = $order;
                }
                $this->show('order_id', OrderInterface::class, $orders);
            }
        } catch (Throwable $fault) {
            $this->logger->error('Tocsin: provenance could not be added to an answer', [
                'fault' => get_class($fault), 'code' => $fault->getCode(), 'at' => $fault->getFile() . ':' . $fault->getLine(),
            ]);
        }
    }

    /**
     * Some saves answer with the entity that the request gave.
     *
     * @param CustomerInterface|OrderInterface $entity
     */
    private function leaveOutWhatWasGiven($entity): void
    {
        $extension = $entity->getExtensionAttributes();
        if ($extension !== null && $extension->getTocsinProvenance() !== null) {
            $extension->setTocsinProvenance(null);
        }
    }

    /**
     * @param array<int, CustomerInterface|OrderInterface> $entities by id
     */
    private function show(string $column, string $type, array $entities): void
    {
        if ($entities === [] || !$this->authorization->isAllowed(self::RESOURCES[$column])) {
            return;
        }
        $records = array_fill_keys(array_keys($entities), []);
        foreach ($this->table->allOf($column, array_keys($entities)) as $row) {
            $records[(int)$row[$column]][] = $this->makeRecord->execute($row);
        }
        foreach ($entities as $id => $entity) {
            $extension = $entity->getExtensionAttributes() ?? $this->extensionFactory->create($type);
            $extension->setTocsinProvenance($records[$id]);
            $entity->setExtensionAttributes($extension);
        }
    }
}
