<?php

declare(strict_types=1);

namespace Tocsin\BreachNotification\Model;

use Magento\Framework\Exception\NoSuchEntityException;
use Magento\Framework\Phrase;
use Tocsin\BreachNotification\Api\Data\ProvenancePageInterface;
use Tocsin\BreachNotification\Api\GetProvenanceOfCustomerInterface;
use Tocsin\BreachNotification\Model\ResourceModel\ProvenanceTable;

/**
 * @inheritDoc
 */
class GetProvenanceOfCustomer implements GetProvenanceOfCustomerInterface
{
    private ReadPage $readPage;
    private ProvenanceTable $table;

    public function __construct(ReadPage $readPage, ProvenanceTable $table)
    {
        $this->readPage = $readPage;
        $this->table = $table;
    }

    /**
     * @inheritDoc
     */
    public function execute(int $customerId, int $pageSize = 100, int $currentPage = 1): ProvenancePageInterface
    {
        $page = $this->readPage->execute('customer_id', $customerId, $pageSize, $currentPage);
        if ($page->getTotalCount() === 0 && $this->table->customers([$customerId]) === []) {
            throw new NoSuchEntityException(new Phrase((string)__('The store has no customer %1, and no record of one.', $customerId)));
        }
        return $page;
    }
}
